"""The passes of the compiler, one file each, and the pipeline that runs them."""
