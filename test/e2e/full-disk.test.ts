/**
 * A node whose disk is full: it takes no edit that it cannot keep, nginx serves on, and once there is space it goes on by
 * itself. The disk is a small tmpfs, which takes the right to mount; without it the store's own tests stand in.
 */

import { execFileSync } from 'node:child_process'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { mkdtempSync, rmdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { NodeView, Problem } from '../../src/api/schemas.ts'
import { keyPairFromSeed, type Envelope } from '../../src/core/envelope.ts'
import { Author } from '../support/author.ts'
import { endNginx, Fleet, type Member } from '../support/fleet.ts'
import type { HttpAnswer } from '../support/http.ts'
import { all, answers, applySite, converged, eventually, health, tell } from '../support/use-fleet.ts'

/** A fleet with one member whose data lies on a disk of its own, which goes away at the end. */
class SmallDiskFleet {
  readonly fleet: Fleet
  readonly small: Member
  #isMounted = false

  constructor(fleet: Fleet) {
    this.fleet = fleet
    this.small = fleet.member('small')
  }

  async mount(size: string): Promise<void> {
    await mkdir(this.small.dataDirectory)
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=0755`, 'tmpfs', this.small.dataDirectory])
    this.#isMounted = true
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.small.stop('SIGKILL')
      await endNginx(this.small.nginxDirectory)
    } finally {
      if (this.#isMounted) execFileSync('umount', ['-l', this.small.dataDirectory])
      await this.fleet.stop()
    }
  }
}

test.runIf(canMount())(
  'a full disk refuses edits, keeps serving, and recovers when there is space',
  async ({ onTestFailed }) => {
    await using host = new SmallDiskFleet(
      await Fleet.create({
        members: [{ name: 'large' }, { name: 'small', nginx: true }],
        config: { sync_interval_seconds: 1 },
      }),
    )
    const { fleet, small } = host
    const large = fleet.member('large')
    let logs = ''
    // vitest shows it beside the failure
    onTestFailed(() => console.error(logs))
    try {
      await host.mount('24m')
      await fleet.start()
      const key = keyPairFromSeed(Buffer.alloc(32, 21))
      const grant = await tell(fleet, large, ['grant', 'editor', key.publicKey, '--zone', '*', '--name', 'eve'])
      const author = new Author(fleet.meshId, key, grant.trim())
      await applySite(fleet, large, { name: 'before' })
      await converged(fleet.members)
      await eventually(() => answers([small], 'before')).toEqual({ small: 'before' })

      const ballast = join(small.dataDirectory, 'ballast')
      await fill(ballast)
      // What fits into the last page of the log is taken, and then it counts.
      const taken: Envelope[] = []
      let refused: HttpAnswer | undefined
      for (let count = 0; refused === undefined && count < 100; count += 1) {
        const envelope = author.site(`full-${count}`)
        const response = await small.push([envelope])
        if (response.status === 202) taken.push(envelope)
        else refused = response
      }
      expect(refused?.status).toBe(503)
      expect(refused?.json() as Problem).toMatchObject({
        code: 'store_unwritable',
        detail: expect.stringContaining('No space left on device'),
        hint: expect.stringContaining('Free space on the disk'),
      })
      expect(await health(small)).toMatch(/^Error \(the store cannot be written: .*No space left on device/)
      expect((await fetch(`${small.api}/health`)).status).toBe(503)
      // The mesh goes on without it, and its nginx without the mesh.
      await applySite(fleet, large, { name: 'meanwhile' })
      expect(await answers([small], 'before')).toEqual({ small: 'before' })
      expect(small.isRunning).toBe(true)

      await rm(ballast)
      await eventually(() => answers([small], 'meanwhile')).toEqual({ small: 'meanwhile' })
      await converged(fleet.members)
      // A restart shows what was really kept.
      await small.stop('SIGKILL')
      await small.start()
      await converged(fleet.members)
      for (const { id } of taken) expect(await small.get(`/v1/edits/${id}`)).toMatchObject({ id })
      const held = await Promise.all(fleet.members.map((member) => member.get<NodeView>('/v1/node')))
      expect(held.map(({ envelopes }) => envelopes)).toEqual([held[0]?.envelopes, held[0]?.envelopes])
      expect(await answers([small], 'before')).toEqual(all([small], 'before'))
    } catch (error) {
      logs = await fleet.logs()
      throw error
    }
  },
)

/** Writes until the disk is full. */
async function fill(file: string): Promise<void> {
  for (const size of [1024 * 1024, 4096]) {
    let isFull = false
    while (!isFull) {
      isFull = await writeFile(file, Buffer.alloc(size), { flag: 'a' }).then(
        () => false,
        (error: NodeJS.ErrnoException) => {
          if (error.code === 'ENOSPC') return true
          throw error
        },
      )
    }
  }
}

/** Mounting needs root in the first user namespace. */
function canMount(): boolean {
  const probe = mkdtempSync(join(tmpdir(), 'nxmesh-mount-'))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', probe], { stdio: 'ignore' })
    execFileSync('umount', [probe])
    return true
  } catch {
    return false
  } finally {
    rmdirSync(probe)
  }
}
