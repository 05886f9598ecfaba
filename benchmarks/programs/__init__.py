"""What runs as a process of its own: `python -m benchmarks.programs.NAME JSON`, started by `benchmarks.process`."""
