"""The learning study: its plan, its search of rates, its file, its report."""
