/**
 * Plain edits over HTTP: PUT makes a resource as a document says, DELETE takes it away, each signed with the node's edit key
 * for the caller. Reads the request and answers; who may do what is in edit-key.ts. Called through the table of routes.ts.
 */

import { CALLER_NOTE_BYTES } from '../core/caller.ts'
import type { ResourceState } from '../core/document.ts'
import { LIMITS, type Value } from '../core/envelope.ts'
import { parseResourcePath, type ResourceName } from '../core/names.ts'
import { wantedOf } from '../core/plan.ts'
import { isTree } from '../core/resources/kind.ts'
import { tooManyChanges } from '../edit-key.ts'
import { MeshError } from '../errors.ts'
import { mayReadPath } from './access.ts'
import { invalid, notFound, resourceIn } from './parameters.ts'
import { checkPreconditions, etagOf } from './preconditions.ts'
import type { ApiContext, Handler, RouteContext } from './route.ts'
import { checkTakesEdits, parseJson, mediaTypeFault, readBody } from './submit.ts'
import { writtenView } from './views.ts'

/** Of the document of a PUT; beyond it 413. Twice what one edit holds, for JSON says it in more words. */
export const PLAIN_EDIT_BYTES = 2 * LIMITS.bodyBytes

export const putResource: Handler = async (c, context) => {
  const ask = admit(c, context)
  const fault = mediaTypeFault(c)
  if (fault !== undefined) return fault
  const body = await readBody(c.req.raw, PLAIN_EDIT_BYTES, 'Make several resources of it, or use meshctl apply.')
  const document = parseJson(body)
  // Each is a field, and a change unless it is there already. To find that out takes long, where there are thousands.
  const held = context.replica.state.resource(ask.path)?.fields.size ?? 0
  if (leavesIn(document) > held + LIMITS.ops + HEAD_LEAVES) throw tooManyChanges(ask.path)
  return await write(c, context, ask, wantedBy(ask, document))
}

export const deleteResource: Handler = async (c, context) => await write(c, context, admit(c, context), undefined)

interface Ask {
  readonly path: string
  readonly caller: string
  readonly editKey: NonNullable<RouteContext['editKey']>
  readonly note: string
  readonly isDryRun: boolean
}

/** What can be said before the body is read; whoever may not edit there costs no more than this. */
function admit(c: ApiContext, { editKey, mayTakeEdits }: RouteContext): Ask {
  const reader = c.get('reader')
  const path = resourceIn(c)
  if (!mayReadPath(reader, path)) throw notFound(`there is no ${path}`)
  if (editKey === undefined) {
    throw new MeshError('denied', 'this node signs no edits', {
      hint: 'Sign them yourself with meshctl, or ask a node that has an http_edit_key.',
    })
  }
  const caller = reader.caller()
  checkTakesEdits(mayTakeEdits())
  const note = c.req.query('note') ?? ''
  if (Buffer.byteLength(note) > CALLER_NOTE_BYTES) throw invalid('note', note, `is over ${CALLER_NOTE_BYTES} bytes`)
  const dryRun = c.req.query('dry_run') ?? 'false'
  if (dryRun !== 'true' && dryRun !== 'false') throw invalid('dry_run', dryRun, 'must be true or false')
  editKey.admit(caller, path)
  return { path, caller, editKey, note, isDryRun: dryRun === 'true' }
}

async function write(
  c: ApiContext,
  { replica }: RouteContext,
  { path, caller, editKey, note, isDryRun }: Ask,
  fields: ReadonlyMap<string, Value> | undefined,
): Promise<Response> {
  let etag: string | undefined
  const written = await editKey.write({
    caller,
    path,
    fields,
    note,
    isDryRun,
    check: (state) => {
      if (fields === undefined && state?.exists !== true) throw notFound(`there is no ${path}`)
      checkPreconditions(c, path, state)
      etag = state?.exists === true ? etagOf(state) : undefined
    },
  })
  if (written.outcome !== undefined) {
    const state = replica.state.resource(path) as ResourceState
    // With others beside it, or after it, the tag would stand for what the caller has not seen.
    const isAlone = state.exists && state.heads.join() === written.outcome.id
    etag = isAlone ? etagOf(state) : undefined
  }
  const headers = etag === undefined ? {} : { etag }
  const isCreated = written.change.action === 'create' && written.outcome !== undefined
  return c.json(writtenView(written), isCreated ? 201 : 200, headers)
}

/** apiVersion, kind, and the three of the place. */
const HEAD_LEAVES = 5

/** How many values and empty maps a document has, at any depth. */
function leavesIn(document: unknown): number {
  let count = 0
  const open = [document]
  for (let tree = open.pop(); tree !== undefined; tree = open.pop()) {
    for (const child of isTree(tree) ? Object.values(tree) : []) {
      if (isTree(child) && Object.keys(child).length > 0) open.push(child)
      else count += 1
    }
  }
  return count
}

/** What is found wrong has cost the work, too. */
function wantedBy({ path, caller, editKey }: Ask, document: unknown): ReadonlyMap<string, Value> {
  try {
    return fieldsIn(document, path)
  } catch (error) {
    editKey.charge(caller)
    throw error
  }
}

const PLACE = ['name', 'workspace', 'zone'] as const

/** The fields of a document that is of this path, or leaves out what the path says. */
function fieldsIn(document: unknown, path: string): ReadonlyMap<string, Value> {
  const place = parseResourcePath(path) as ResourceName
  const { name, workspace, zone } = place
  const metadata = isTree(document) ? document['metadata'] : undefined
  const isTold = isTree(document) && isTree(metadata)
  const wanted = wantedOf(isTold ? { ...document, metadata: { name, workspace, zone, ...metadata } } : document)
  const said = parseResourcePath(wanted.path) as ResourceName
  const other = PLACE.find((part) => said[part] !== place[part])
  if (other !== undefined)
    throw invalid(`metadata.${other}`, said[other], `is ${said[other]}, and the path says ${place[other]}`)
  if (said.kind !== place.kind)
    throw invalid('kind', said.kind, `is that of ${said.kind}, and the path says ${place.kind}`)
  return wanted.fields
}
