"""The learning study: every optimizer tuned alike, its loss, and what tuning it takes.

In the order of reading: `points` where rates are tried, `plan` what is compared, `runs` the file of
all runs, `search` which runs are still needed, `training` one run, `findings` what the runs say,
`pictures`, `__main__` the command.
"""
