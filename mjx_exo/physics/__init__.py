"""One step interface for the wearer and the device, several engines behind it."""
