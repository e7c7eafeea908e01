"""Reports that outlive the run: a web page and a workbook."""
