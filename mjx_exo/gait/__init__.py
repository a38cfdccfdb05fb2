"""What a gait looks like: strides, measures, norms, figures and reports, from simulation or from a person's own data.

Plain numpy on recorded trials. Nothing here knows how a trial came about, so a rollout, a log and a laboratory's CSV
are judged by the same code. Importing the package imports nothing else; figures load matplotlib when first drawn.
"""
