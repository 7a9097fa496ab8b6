"""`python -m gramian.scores`: the page docs/scores.md, made of what `SCORES` says of each score."""

from gramian.scores import SCORES, score_table

PAGE = """\
# Scores

Written by `make docs` from `gramian.scores.SCORES`. A score takes two sides, each a Bundle of any modalities or an (n, d)
tensor, and gives (q, n) values, higher is better. What they make of incomplete items is measured in
[results/arity.md](results/arity.md), what serves which space in [objectives.md](objectives.md), how exact they are in
[accuracy.md](accuracy.md).
"""

papers = dict.fromkeys(paper for score in SCORES.values() for paper in score.papers)
references = "\n".join(f"- {paper.cite()}" for paper in papers)
print(f"{PAGE}\n{score_table().markdown().rstrip()}\n\n## Papers\n\n{references}")
