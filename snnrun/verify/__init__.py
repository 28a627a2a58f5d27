"""Definition checks on the user's machine and net: how far apart are two things that are equal?"""
