"""The comparison the project exists for: walking with learned assistance against walking without.

`arms` trains every arm with the same human learning, `tuning` finds the best gain and delay of each reference
controller, `walk` lets the arms walk on people nobody trained on, `compare` does the statistics, `report` writes.
"""
