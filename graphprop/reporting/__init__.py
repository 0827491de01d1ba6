"""A report of compiled directories: one HTML file that loads nothing and sends nothing.

    write_report("report.html", ["build/vgg16-rap"], ["cat.jpg"])

`contents` reads what manifests record, `gallery` explains pictures and packs their maps, `charts`
draws, `inline` makes what matplotlib draws a part of the page, and `page` writes it.
"""

from graphprop.reporting.page import Written, write_report

__all__ = ["Written", "write_report"]
