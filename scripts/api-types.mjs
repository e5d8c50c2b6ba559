// Writes types/api.d.ts, the schemas of /openapi.json as TypeScript declarations for the checks of static/js, and
// python/distillery/types.py, the same for the Python client. `node scripts/api-types.mjs` takes them from
// target/debug/distillery, or $DISTILLERY_BIN.

import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { Server } from '../tests/browser/support/server.mjs';
import { PYTHON_FILE, typedDicts } from './python-types.mjs';

export const FILE = fileURLToPath(new URL('../types/api.d.ts', import.meta.url));

const HEADER = '// Made by scripts/api-types.mjs from /openapi.json: do not edit.\n';

/** The declaration of a global interface with a member for each schema of an OpenAPI 3.1 document. */
export function declarations(document) {
  const schemas = Object.entries(document.components.schemas).sort(([one], [other]) => (one < other ? -1 : 1));
  const members = schemas.map(([name, schema]) => `  ${name}: ${typeOf(schema, '  ')};\n`);
  return `${HEADER}\ninterface Schemas {\n${members.join('')}}\n`;
}

/** A schema as a type. Ranges, formats and patterns are left to the server. */
function typeOf(schema, indent) {
  if (schema === undefined || schema === true) return 'unknown';
  if (schema.$ref) return `Schemas['${schema.$ref.split('/').at(-1)}']`;
  if (schema.enum) return union(schema.enum.map((value) => JSON.stringify(value)));
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const variants = schema.oneOf ?? schema.anyOf;
  if (variants) return union(variants.map((variant) => typeOf(variant, indent)));
  if (schema.allOf) return schema.allOf.map((part) => typeOf(part, indent)).join(' & ');
  return union([schema.type].flat().map((type) => typeNamed(type, schema, indent)));
}

function typeNamed(type, schema, indent) {
  switch (type) {
    case 'object': return objectType(schema, indent);
    case 'array': return schema.prefixItems ? `[${schema.prefixItems.map((item) => typeOf(item, indent)).join(', ')}]` : `${bracketed(typeOf(schema.items, indent))}[]`;
    case 'integer': return 'number';
    case 'number': case 'string': case 'boolean': case 'null': return type;
    default: return 'unknown';
  }
}

function objectType({ properties = {}, required = [], additionalProperties }, indent) {
  const inner = `${indent}  `;
  const members = Object.entries(properties).map(([name, schema]) =>
    `${inner}${/^\w+$/.test(name) ? name : JSON.stringify(name)}${required.includes(name) ? '' : '?'}: ${typeOf(schema, inner)};\n`);
  if (members.length > 0) return `{\n${members.join('')}${indent}}`;
  return `Record<string, ${typeof additionalProperties === 'object' ? typeOf(additionalProperties, indent) : 'unknown'}>`;
}

const union = (types) => [...new Set(types)].join(' | ');
const bracketed = (type) => (type.includes(' ') ? `(${type})` : type);

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const server = new Server();
  try {
    await server.start();
    const document = await server.get('/openapi.json');
    writeFileSync(FILE, declarations(document));
    writeFileSync(PYTHON_FILE, typedDicts(document));
  } finally {
    await server.stop();
  }
}
