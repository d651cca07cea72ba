"""Providers: one package for each, and what their wires share. Their codecs are pure: no IO, no clock."""
