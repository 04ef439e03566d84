-- BC-003 002: what one may be (roles) and what one may do (permissions).
--
-- purpose     tables roles and permissions, with the four roles and twelve permissions the application starts from
-- privilege   owner of the database
-- versions    PostgreSQL 14 to 18
--
-- The identities and times of the shipped rows are fixed, so that two installations compare equal. These are rows of
-- the application, not roles of PostgreSQL: those are in sql/roles/.

CREATE TABLE public.roles (
    id          uuid         NOT NULL DEFAULT gen_random_uuid(),
    name        varchar(100) NOT NULL,
    description text,
    is_system   boolean      NOT NULL DEFAULT false,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT roles_pkey PRIMARY KEY (id),
    CONSTRAINT roles_name_key UNIQUE (name),
    CONSTRAINT roles_name_check CHECK (name ~ '^[a-z][a-z0-9_]*$')
);

CREATE TABLE public.permissions (
    id          uuid         NOT NULL DEFAULT gen_random_uuid(),
    resource    varchar(50)  NOT NULL,
    action      varchar(50)  NOT NULL,
    description text,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT permissions_pkey PRIMARY KEY (id),
    CONSTRAINT permissions_resource_action_key UNIQUE (resource, action),
    CONSTRAINT permissions_resource_check CHECK (resource ~ '^[a-z][a-z0-9_]*$'),
    CONSTRAINT permissions_action_check CHECK (action ~ '^[a-z][a-z0-9_]*$')
);

INSERT INTO public.roles (id, name, description, is_system, created_at, updated_at)
SELECT id::uuid, name, description, true, '2025-01-01 00:00:00+00', '2025-01-01 00:00:00+00'
FROM (VALUES
    ('00000000-0000-4000-a001-000000000001', 'administrator', 'Manages users, roles and policies'),
    ('00000000-0000-4000-a001-000000000002', 'manager', 'Manages users of the own team'),
    ('00000000-0000-4000-a001-000000000003', 'auditor', 'Reads the audit log and security events'),
    ('00000000-0000-4000-a001-000000000004', 'viewer', 'Reads; every new user has this role')
) AS shipped (id, name, description);

INSERT INTO public.permissions (id, resource, action, description, created_at, updated_at)
SELECT ('00000000-0000-4000-a002-' || lpad(number::text, 12, '0'))::uuid, resource, action,
       action || ' ' || replace(resource, '_', ' '), '2025-01-01 00:00:00+00', '2025-01-01 00:00:00+00'
FROM (VALUES
    (1, 'users', 'read'), (2, 'users', 'write'), (3, 'users', 'delete'),
    (4, 'roles', 'read'), (5, 'roles', 'write'), (6, 'roles', 'grant'),
    (7, 'sessions', 'read'), (8, 'sessions', 'revoke'),
    (9, 'audit_logs', 'read'), (10, 'security_events', 'read'),
    (11, 'security_policies', 'read'), (12, 'security_policies', 'write')
) AS shipped (number, resource, action);

COMMENT ON TABLE public.roles IS 'Roles of the application, granted to users by user_roles';
COMMENT ON COLUMN public.roles.id IS 'Identity';
COMMENT ON COLUMN public.roles.name IS 'Name the application knows the role by';
COMMENT ON COLUMN public.roles.description IS 'For people';
COMMENT ON COLUMN public.roles.is_system
    IS 'Shipped with the application; the user interface does not offer to delete it';
COMMENT ON COLUMN public.roles.created_at IS 'When the row was made';
COMMENT ON COLUMN public.roles.updated_at IS 'When the row last changed; set by a trigger';
COMMENT ON TABLE public.permissions IS 'One action on one kind of resource, granted to roles by role_permissions';
COMMENT ON COLUMN public.permissions.id IS 'Identity';
COMMENT ON COLUMN public.permissions.resource IS 'Kind of resource';
COMMENT ON COLUMN public.permissions.action IS 'What may be done with it';
COMMENT ON COLUMN public.permissions.description IS 'For people';
COMMENT ON COLUMN public.permissions.created_at IS 'When the row was made';
COMMENT ON COLUMN public.permissions.updated_at IS 'When the row last changed; set by a trigger';
