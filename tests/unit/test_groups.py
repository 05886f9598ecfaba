"""What comes out of a nursery."""

import pytest
import trio

from requeuest_trio._model.groups import raise_bare


async def nursery_of(*errors: BaseException) -> None:
    async def raises(error: BaseException) -> None:
        raise error

    try:
        async with trio.open_nursery() as nursery:
            for error in errors:
                nursery.start_soon(raises, error)
    except BaseExceptionGroup as group:
        raise_bare(group)


@pytest.mark.parametrize("error", [KeyError("a"), KeyboardInterrupt(), SystemExit(1)])
async def test_one_comes_out_as_it_was_raised(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        await nursery_of(error)
    assert caught.value is error
    assert error.__context__ is None


async def test_group_of_ones_own_stays_one() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await nursery_of(ExceptionGroup("own", [KeyError()]))
    assert caught.value.message == "own"


async def test_several_come_out_together() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await nursery_of(KeyError("a"), ValueError("b"))
    assert {type(error) for error in caught.value.exceptions} == {KeyError, ValueError}


async def test_cancellation_beside_an_error_says_nothing_more() -> None:
    async def raises_beside_a_cancelled_task() -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise KeyError
        except BaseExceptionGroup as group:
            raise_bare(group)

    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(KeyError):
            await raises_beside_a_cancelled_task()
