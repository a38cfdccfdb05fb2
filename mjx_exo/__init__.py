"""Muscle-driven walking, hip assistance, and the way to a device. Importing this loads nothing heavy."""
