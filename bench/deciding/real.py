def tier(seeds,runs): pass
