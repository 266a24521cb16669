"""`batchyard paper`: the experiments of Ioffe & Szegedy 2015 (arXiv 1502.03167) as jobs of the running service.

An experiment is data: a list of runs (job specs) and a function from their histories to findings and figures. The rest
of the package is shared: `running` submits and follows, `history` gathers, `plots` and `report` write.
"""
