from support import Server
from trireme_client import AsyncClient


def test_tokenization_of_requests_that_come_together_is_batched(server: Server) -> None:
    """Different lengths and sampling parameters do not keep requests from being tokenized together."""
    import asyncio

    async def burst() -> None:
        async with AsyncClient(server.grpc, timeout_s=60) as client:
            await asyncio.gather(
                *(
                    client.generate(
                        prompt="x" * (1 + i % 40),
                        max_tokens=1 + i % 3,
                        temperature=0.5 if i % 2 else None,
                        seed=i if i % 3 else None,
                        stop=("y",) if i % 5 == 0 else (),
                    )
                    for i in range(64)
                )
            )

    def counts() -> tuple[float, float]:
        return tuple(  # type: ignore[return-value]
            server.metric(f'{name}{{model="preprocessing",version="1"}}')
            for name in ("nv_inference_count", "nv_inference_exec_count")
        )

    asyncio.run(burst())
    before = counts()
    asyncio.run(burst())
    after = counts()
    inferences, executions = after[0] - before[0], after[1] - before[1]
    assert inferences == 64
    assert inferences / executions > 2
