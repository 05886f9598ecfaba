"""The command `requeuest`."""
