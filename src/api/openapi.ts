/** The OpenAPI 3.1 document of the route table, pure. Built by routes.ts once; a test holds real answers against it. */

import { z } from 'zod'
import { tokenNeed } from './access.ts'
import type { Answer, Parameter, Route } from './route.ts'

/** @param schemas of the document's components, by name. */
export function openApiDocument(
  routes: readonly Route[],
  schemas: Readonly<Record<string, z.ZodType>>,
  version: string,
): Record<string, unknown> {
  const paths: Record<string, Record<string, unknown>> = {}
  for (const route of routes) {
    paths[route.path] ??= {}
    ;(paths[route.path] as Record<string, unknown>)[route.method] = operationOf(route)
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'NxMesh node',
      version,
      description:
        'What one node of the mesh knows, and the way in for signed edits. Errors are problem documents (RFC 9457). Lists show what the workspaces of the caller’s grants hold.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    security: [{ token: [] }],
    paths,
    components: {
      securitySchemes: {
        token: {
          type: 'http',
          scheme: 'bearer',
          bearerFormat: 'JWT',
          description:
            'Over TCP: EdDSA, signed with the key of a reader; iss is its public key, aud the mesh id of /health. For PUT and DELETE, edit is the public key of the node that is asked. To read, the unix socket needs none.',
        },
      },
      schemas: Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, jsonSchema(schema)])),
    },
  }
}

function operationOf(route: Route): Record<string, unknown> {
  const answers = Object.entries(route.answers).map(([status, answer]) => [status, answerOf(Number(status), answer)])
  return {
    operationId: route.operationId,
    summary: route.summary,
    ...securityOf(route),
    ...(route.parameters.length === 0 ? {} : { parameters: route.parameters.map(parameterOf) }),
    ...(route.body === undefined
      ? {}
      : { requestBody: { required: true, content: { 'application/json': { schema: reference(route.body) } } } }),
    responses: {
      ...Object.fromEntries(answers),
      default: answerOf(500, { description: 'anything else that went wrong', schema: 'Problem' }),
    },
  }
}

/** What differs from the rule of the document: a token on every route. */
function securityOf({ path }: Route): Record<string, unknown> {
  const need = tokenNeed(path)
  if (need === 'always') return {}
  return { security: need === 'never' ? [] : [{}, { token: [] }] }
}

function parameterOf({ name, in: place, description, type }: Parameter): Record<string, unknown> {
  return { name, in: place, required: place === 'path', description, schema: { type } }
}

function answerOf(status: number, { description, schema, contentType }: Answer): Record<string, unknown> {
  if (status === 304) return { description }
  const isProblem = status >= 400 && contentType === undefined
  const name = schema ?? (isProblem ? 'Problem' : undefined)
  const type = contentType ?? (isProblem ? 'application/problem+json' : 'application/json')
  return { description, content: { [type]: name === undefined ? {} : { schema: reference(name) } } }
}

function reference(name: string): Record<string, unknown> {
  return { $ref: `#/components/schemas/${name}` }
}

function jsonSchema(schema: z.ZodType): unknown {
  // The input side: it leaves further members open, as later versions may add them.
  const { $schema: _, ...rest } = z.toJSONSchema(schema, { io: 'input' })
  return rest
}
