"""What happens in an open queue, as values, and those that take them: the log, and who subscribes."""
