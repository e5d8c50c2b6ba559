-- Specifications from before there was a choice say nothing of it; their recipes are those of later jobs on one device.
update jobs set spec = jsonb_set(spec, '{training,devices}', '1')
where jsonb_typeof(spec -> 'training') = 'object' and not spec -> 'training' ? 'devices';
