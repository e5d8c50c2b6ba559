// The schemas of /openapi.json as Python's typed dictionaries, for python/distillery/types.py.
// `node scripts/api-types.mjs` writes them.

import { fileURLToPath } from 'node:url';

export const PYTHON_FILE = fileURLToPath(new URL('../python/distillery/types.py', import.meta.url));

const HEADER = `"""The API's documents. Made by scripts/api-types.mjs from /openapi.json: do not edit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, Union

if TYPE_CHECKING:
    from typing_extensions import NotRequired
`;
// Of these, the API uses some as names of members.
const KEYWORDS = ['and', 'as', 'assert', 'async', 'await', 'break', 'class', 'continue', 'def', 'del', 'elif', 'else', 'except', 'finally',
  'for', 'from', 'global', 'if', 'import', 'in', 'is', 'lambda', 'nonlocal', 'not', 'or', 'pass', 'raise', 'return', 'try', 'while', 'with',
  'yield', 'None', 'True', 'False'];

/** A module with a definition for each schema of an OpenAPI 3.1 document. */
export function typedDicts(document) {
  const schemas = document.components.schemas;
  const written = new Set();
  const definitions = [];
  const write = (name) => {
    if (written.has(name)) return;
    written.add(name);
    // A class comes after its bases.
    for (const base of partsOf(schemas[name]).bases) write(base);
    definitions.push(definition(name, schemas[name]));
  };
  Object.keys(schemas).sort().forEach(write);
  return `${HEADER}\n\n${definitions.join('\n\n')}`;
}

function definition(name, schema) {
  const { bases, properties, required } = partsOf(schema);
  const members = Object.entries(properties);
  if (!bases.length && !members.length) return `${name} = ${typeOf(schema, true)}\n`;
  const types = members.map(([key, value]) => [key, required.includes(key) ? typeOf(value) : `NotRequired[${typeOf(value)}]`]);
  if (types.every(([key]) => /^[A-Za-z_]\w*$/.test(key) && !KEYWORDS.includes(key))) {
    const lines = types.map(([key, type]) => `    ${key}: ${type}\n`);
    return `class ${name}(${bases.length ? bases.join(', ') : 'TypedDict'}):\n${lines.join('') || '    pass\n'}`;
  }
  if (bases.length) throw new Error(`${name} has bases, and a member whose name is none in Python`);
  const lines = types.map(([key, type]) => `        ${JSON.stringify(key)}: ${JSON.stringify(type)},\n`);
  return `${name} = TypedDict(\n    "${name}",\n    {\n${lines.join('')}    },\n)\n`;
}

/** What an object consists of: other schemas, and members of its own. */
function partsOf(schema) {
  const parts = { bases: [], properties: {}, required: [] };
  for (const part of schema.allOf ?? [schema]) {
    if (part.$ref && schema.allOf) parts.bases.push(nameOf(part));
    Object.assign(parts.properties, part.properties);
    parts.required.push(...(part.required ?? []));
  }
  return parts;
}

const nameOf = (schema) => schema.$ref.split('/').at(-1);

/**
 * A schema as a type; `isEvaluated` where Python evaluates it, so that names are quoted. An object without a name is a
 * plain dictionary.
 */
function typeOf(schema, isEvaluated = false) {
  if (schema === undefined || schema === true) return 'Any';
  if (schema.$ref) return isEvaluated ? JSON.stringify(nameOf(schema)) : nameOf(schema);
  if (schema.enum) return `Literal[${schema.enum.map((value) => JSON.stringify(value)).join(', ')}]`;
  if (schema.const !== undefined) return `Literal[${JSON.stringify(schema.const)}]`;
  const variants = schema.oneOf ?? schema.anyOf;
  if (variants) return union(variants.map((variant) => typeOf(variant, isEvaluated)), isEvaluated);
  if (schema.allOf) return 'dict[str, Any]';
  return union([schema.type].flat().map((type) => typeNamed(type, schema, isEvaluated)), isEvaluated);
}

function typeNamed(type, schema, isEvaluated) {
  switch (type) {
    case 'object': {
      const values = typeof schema.additionalProperties === 'object' ? typeOf(schema.additionalProperties, isEvaluated) : 'Any';
      return `dict[str, ${schema.properties ? 'Any' : values}]`;
    }
    case 'array': return schema.prefixItems ? 'list[Any]' : `list[${typeOf(schema.items, isEvaluated)}]`;
    case 'integer': return 'int';
    case 'number': return 'float';
    case 'string': return 'str';
    case 'boolean': return 'bool';
    case 'null': return 'None';
    default: return 'Any';
  }
}

function union(types, isEvaluated) {
  const different = [...new Set(types)];
  if (different.length === 1) return different[0];
  return isEvaluated ? `Union[${different.join(', ')}]` : different.join(' | ');
}
