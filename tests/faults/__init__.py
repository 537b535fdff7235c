"""Faults: bad command lines, damaged files, full disks, kills, threads, processes, memory."""
