"""What to ask for next time: right sizes for stages and chunks, by what a run asked for and used."""

from batchrun.sizing.advise import Advice, advise
from batchrun.sizing.use import RunUse, StageUse

__all__ = ["Advice", "RunUse", "StageUse", "advise"]
