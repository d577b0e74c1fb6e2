/** The routes of hosts that ask to join: who waits here, and an operator's signed no. Called through the table of routes.ts. */

import { MeshError } from '../errors.ts'
import { paging } from './parameters.ts'
import type { Handler } from './route.ts'
import { REJECTION } from './schemas.ts'
import { readBody } from './submit.ts'
import { pageOf, pendingView } from './views.ts'

export const listPending: Handler = (c, { joins }) => {
  if (!c.get('reader').mayLetIn()) {
    throw new MeshError('denied', 'who waits to be let in is shown to those who may let them in', {
      hint: 'Use the key of an admin, an owner or a registrar, or the node’s socket.',
    })
  }
  return c.json(pageOf(joins.pending(), paging(c), pendingView))
}

export const rejectPending: Handler = async (c, { joins }) => {
  const { data } = REJECTION.safeParse(jsonIn(await readBody(c.req.raw)))
  if (data === undefined) {
    throw new MeshError('input_invalid', 'the body is not a denial', {
      field: 'body',
      hint: 'Send {"request": "...", "by": "...", "sig": "..."}, as meshctl deny does.',
    })
  }
  return c.json({ key: joins.reject(data) })
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
