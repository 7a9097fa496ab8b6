"""`python -m gramian.scores`: the page docs/scores.md, generated from `SCORES`."""

from gramian.scores import SCORES, score_table

PAGE = """\
# Scores

Written by `make docs` from `gramian.scores.SCORES`. A score takes two sides, each a Bundle of any modalities or an (n, d)
tensor, and gives (q, n) values, higher is better. [results/arity.md](results/arity.md) measures how scores treat incomplete
items, [objectives.md](objectives.md) which score serves which space, and [accuracy.md](accuracy.md) how exact they are.
"""

papers = dict.fromkeys(paper for score in SCORES.values() for paper in score.papers)
references: str = "\n".join(f"- {paper.cite()}" for paper in papers)
print(f"{PAGE}\n{score_table().markdown().rstrip()}\n\n## Papers\n\n{references}")
