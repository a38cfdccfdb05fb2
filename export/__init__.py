"""From a trained student to the one file that the device runs."""
