"""The control plane: accepts jobs, runs them through an executor, keeps the registry of published models.

rpc/, web/        the edges: convert, call once, convert back
jobs, registry    what can be asked and ordered; plain domain errors
scheduler         admits queued jobs and follows running attempts
lifecycle         the job's state machine: pure functions
ledger            one transaction, then everyone who waits hears of it
store/            tables, migrations, rows to records
app               builds all of the above; nothing else does
"""
