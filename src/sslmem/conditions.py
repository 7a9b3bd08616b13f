"""Under which conditions scores were computed: recorded, though they do not determine the scores."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Dtype = Literal["float32", "bfloat16", "float16"]


class Conditions(BaseModel):
    """Device, batch size and precision of a run of the scoring engine.

    Attributes:
        device: ``cpu``, or the name of the GPU.
        batch_size: samples per batch, after halving if the memory did not suffice.
        precision: of the encoders' products; everything else is float32 or better.
        precision_share_of_error: error of a score by that precision, as a part of its standard error over views,
            root mean square over the first samples; 0 for float32.
    """

    model_config = ConfigDict(frozen=True)

    device: str
    batch_size: int
    precision: Dtype
    precision_share_of_error: float
