"""The benchmark of updates: their time beside the targets, and what it depends on."""
