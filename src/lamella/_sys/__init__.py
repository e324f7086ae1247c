"""What the operating system gives and Python does not wrap well: durable files, locks, system calls, safe paths."""
