"""Exports for other trainers: one module a trainer."""
