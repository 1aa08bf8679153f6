"""The report of a run: one self-contained HTML page, written by the standard library."""

from flowgrpo.report.page import SECTIONS, write_report

__all__ = ["SECTIONS", "write_report"]
