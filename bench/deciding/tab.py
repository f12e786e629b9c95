def tier(seeds): pass
