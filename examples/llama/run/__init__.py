"""What surrounds a run: command line, folder, records, processes, stopping."""
