"""The view of the explorer's state: controls, tables, read-outs and linked pictures."""
