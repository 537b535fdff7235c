"""The command line.

| module | concept |
| --- | --- |
| `app` | capture, reconstruct, certify, and what comes with the library |
| `theory` | the commands that need shapes alone |
| `terminal` | what goes to the screen |
| `exits` | how a command ends: exit codes, one sentence on stderr |
"""
