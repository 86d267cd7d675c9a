"""Programs that load one written file and run it on arrays; nothing imports them.

For `export.checking.processes`, which starts them without Keras and tfticket.
"""
