-- BC-003 003: who is what, and what that allows.
--
-- purpose     tables user_roles and role_permissions, with the permissions of the shipped roles
-- privilege   owner of the database
-- versions    PostgreSQL 14 to 18
--
-- A role that users still have cannot be deleted; a user who goes takes the grants along.

CREATE TABLE public.user_roles (
    user_id    uuid        NOT NULL,
    role_id    uuid        NOT NULL,
    granted_by uuid,
    granted_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    CONSTRAINT user_roles_pkey PRIMARY KEY (user_id, role_id),
    CONSTRAINT user_roles_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users (id) ON DELETE CASCADE,
    CONSTRAINT user_roles_role_id_fkey FOREIGN KEY (role_id) REFERENCES public.roles (id),
    CONSTRAINT user_roles_granted_by_fkey FOREIGN KEY (granted_by) REFERENCES public.users (id) ON DELETE SET NULL,
    CONSTRAINT user_roles_expires_at_check CHECK (expires_at > granted_at)
);

CREATE TABLE public.role_permissions (
    role_id       uuid        NOT NULL,
    permission_id uuid        NOT NULL,
    granted_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT role_permissions_pkey PRIMARY KEY (role_id, permission_id),
    CONSTRAINT role_permissions_role_id_fkey FOREIGN KEY (role_id) REFERENCES public.roles (id) ON DELETE CASCADE,
    CONSTRAINT role_permissions_permission_id_fkey FOREIGN KEY (permission_id) REFERENCES public.permissions (id)
);

INSERT INTO public.role_permissions (role_id, permission_id, granted_at)
SELECT roles.id, permissions.id, '2025-01-01 00:00:00+00'
FROM public.roles, public.permissions
WHERE CASE roles.name
          WHEN 'administrator' THEN true
          WHEN 'manager' THEN permissions.resource IN ('users', 'sessions') AND permissions.action <> 'delete'
          WHEN 'auditor' THEN permissions.action = 'read'
          WHEN 'viewer' THEN permissions.resource IN ('users', 'roles') AND permissions.action = 'read'
      END;

COMMENT ON TABLE public.user_roles IS 'Roles a user has';
COMMENT ON COLUMN public.user_roles.user_id IS 'Who has the role';
COMMENT ON COLUMN public.user_roles.role_id IS 'The role';
COMMENT ON COLUMN public.user_roles.granted_by IS 'Who granted it; NULL: the system, or a user who is gone';
COMMENT ON COLUMN public.user_roles.granted_at IS 'Since when';
COMMENT ON COLUMN public.user_roles.expires_at IS 'Until when; NULL: until revoked';
COMMENT ON TABLE public.role_permissions IS 'Permissions a role carries';
COMMENT ON COLUMN public.role_permissions.role_id IS 'The role';
COMMENT ON COLUMN public.role_permissions.permission_id IS 'What it allows';
COMMENT ON COLUMN public.role_permissions.granted_at IS 'Since when';
