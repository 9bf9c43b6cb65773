"""Device code only: one file for each kernel and its launcher, one module for each backend; nothing here is imported
at start.
"""
