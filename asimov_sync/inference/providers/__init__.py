"""Providers: a package for each, and the modules that their codecs share."""
