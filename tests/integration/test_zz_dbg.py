from tests.integration.test_rollouts import *
from tests.integration.conftest import *
import os
async def test_dbg(stage):
    async def live(number):
        async with stage.telling(f"back-killed-{number}") as told:
            await begin(told)
            async with told.kept_alive():
                told.kill_after(number)
                await told.edit({"model": {"uri": FAILING}})
                await settled(told, "RolledBack", V1)
                ch = stage.routers.changes(told.namespace)
                print(number, told.starts, len(ch), [(round(b[0]-ch[1][0],2), sorted(b[1].values())) for b in ch[1:]])
                await says_nothing_more(told)
    for n in (17,18,19,20,21):
        try: await live(n)
        except BaseException as e: print(n, "FAILED", str(e)[:600])
