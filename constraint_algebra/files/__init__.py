"""Writing to disk so that nothing is lost and nothing outside the named place is touched.

Everything that the library, its studies and its figures write goes through here. From below:

- `names`: what a name stands for, whatever name it is.
- `locks`: one writer at a time, across processes, with a lock file that says who it is.
- `space`: whether a folder can be written to and has room, asked before the work and not after it.
- `writing`: one file, whole or not at all.
- `result_folder`: the files of one result, all of them or none.

All hidden files begin with `locks.MARK`. What an interrupted run leaves of them is removed by the next one.
"""
