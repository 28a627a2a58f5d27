"""What all compiled kernels share.

`machine_code` is the entry of kernels; `compiling`, which imports no compiler, that of their users.
"""
