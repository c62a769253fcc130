"""The learning study: every optimizer tuned alike, its loss, and what tuning it takes.

One concept per file, in the order of reading: `points` where rates are tried, `plan` what is
compared, `results` the file of all runs, `search` and `due` which runs are still needed, `training`
one run, `estimate` how long the rest takes, `findings` what the runs say, `tables` and `pictures`
how that is shown, `__main__` the command.
"""
