"""The commands of tfticket: flags, output and exit status.

A package of its own, since `import tfticket` takes the seconds of TensorFlow: help,
wrong flags and completion do without. What a command needs of tfticket it imports when
it runs.
"""
