"""The program `tfticket` and the scripts: flags, output and exit status.

For the command line. A package of its own, since `import tfticket` takes seconds, which
help, wrong flags and completion do without: a command imports it when it runs.
"""
