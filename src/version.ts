/** The version of this software, as package.json has it; in status records, metrics and `--version`. */

import manifest from '../package.json' with { type: 'json' }

export const VERSION: string = manifest.version
