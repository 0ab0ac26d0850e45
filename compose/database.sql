-- The database of one service, and its two roles: one owns the schema and migrates it, the other runs (docs/deploying.md).
-- It may be run again: what exists stays, and the roles get the current passwords.
\getenv service SERVICE
\getenv password DATABASE_PASSWORD
\getenv migration_password MIGRATION_PASSWORD
\set owner :service _owner
\set app :service _app

SELECT format('CREATE ROLE %I LOGIN', role) FROM (VALUES (:'owner'), (:'app')) AS needed (role)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) \gexec

SELECT format('ALTER ROLE %I PASSWORD %L', role, password)
FROM (VALUES (:'owner', :'migration_password'), (:'app', :'password')) AS needed (role, password) \gexec

SELECT format('CREATE DATABASE %I OWNER %I', :'service', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'service') \gexec

SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'service') \gexec
