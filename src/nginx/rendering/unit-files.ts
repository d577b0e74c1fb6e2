/**
 * Files that nginx reads beside its configuration, as a part of units: how they are named, by their text, and which a
 * set of units has. Pure; renderers make them, a generation writes them.
 */

import { sha256 } from '../../core/canonical.ts'
import type { HostLayout } from './host-layout.ts'
import { plain } from './quote.ts'
import type { Unit, UnitFile } from './unit.ts'

export function unitFile(text: string, extension: string, readers: UnitFile['readers']): UnitFile {
  return { name: `${sha256(text)}.${extension}`, text, readers }
}

/** Where it lies, as one parameter. */
export function filePath({ directory }: Pick<HostLayout, 'directory'>, { name }: UnitFile): string {
  return plain(`${directory}/objects/${name}`)
}

/** Each once; one that workers read in any unit is theirs to read. */
export function filesOf(units: readonly Unit[]): readonly UnitFile[] {
  const files = units.flatMap((unit) => unit.files ?? [])
  const mastersFirst = files.toSorted((a, b) => Number(a.readers === 'workers') - Number(b.readers === 'workers'))
  return [...new Map(mastersFirst.map((file) => [file.name, file])).values()]
}
