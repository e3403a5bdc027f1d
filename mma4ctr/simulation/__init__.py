"""A simulated world: raw files in the formats of the real data sets, and the probabilities behind them.

`law` says who sees what and acts on it, `views` what the features show of an item, `wechat` and `tiktok` write
the raw files. The command is `python -m mma4ctr.simulation`.
"""
