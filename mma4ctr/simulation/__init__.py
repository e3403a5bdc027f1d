"""A simulated world: raw files in the formats of the real data sets, and the probabilities behind them.

`law` defines users, items, exposures and actions. `views` derives raw features from items. `wechat` and `tiktok` define
the raw files, and `rows` streams them. The command is `python -m mma4ctr.simulation`.
"""
